package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// rollout is how far the Deployment has come.
type rollout struct {
	done, moving  bool
	ready, reason string
	message       string
}

func rolloutOf(app *WebApp, deployment *appsv1.Deployment) rollout {
	status, wanted := deployment.Status, app.Spec.Replicas
	if status.ObservedGeneration == 0 {
		return rollout{moving: true, ready: "Creating", reason: "Creating", message: "The Deployment is being created"}
	}
	moving := rollout{moving: true, ready: "RollingOut", reason: "RollingOut"}
	moving.message = fmt.Sprintf("%d of %d replicas are of the latest spec", status.UpdatedReplicas, wanted)
	if deployment.Annotations[wantedHash] != wantedHashOf(app) || status.ObservedGeneration < deployment.Generation {
		return moving
	}
	for _, condition := range status.Conditions {
		if condition.Type == appsv1.DeploymentProgressing && condition.Status == corev1.ConditionFalse {
			return rollout{ready: "RolloutStuck", reason: "RolloutStuck", message: condition.Message}
		}
	}
	if status.Replicas != wanted || status.UpdatedReplicas != wanted || status.AvailableReplicas != wanted {
		return moving
	}
	done := rollout{done: true, ready: "AllReplicasReady", reason: "RolledOut", message: "The latest spec is rolled out"}
	if wanted == 0 {
		done.ready = "ScaledToZero"
	}
	return done
}

// writeStatus writes the status, if it differs from what is there.
func (r *reconciler) writeStatus(ctx context.Context, app *WebApp, deployment *appsv1.Deployment) error {
	before := app.DeepCopy()
	rollout := rolloutOf(app, deployment)
	ready := deployment.Status.ReadyReplicas
	app.Status.ObservedGeneration = app.Generation
	app.Status.Replicas = deployment.Status.Replicas
	app.Status.ReadyReplicas = ready
	// The pairs are sorted by key, as in the plugin.
	app.Status.Selector = "app.kubernetes.io/instance=" + app.Name + ",app.kubernetes.io/name=webapp"
	app.Status.URL = fmt.Sprintf("http://%s.%s.svc", app.Name, app.Namespace)
	if app.Spec.Host != "" {
		app.Status.URL = "http://" + app.Spec.Host
	}
	message := fmt.Sprintf("%d of %d replicas are ready", ready, app.Spec.Replicas)
	setCondition(app, "Ready", rollout.done, rollout.ready, message)
	setCondition(app, "Progressing", rollout.moving, rollout.reason, rollout.message)
	if rollout.reason == "RolloutStuck" {
		r.recorder.Eventf(app, deployment, eventWarning, "RolloutStuck", "Reconcile", "%s", rollout.message)
	}
	if equality.Semantic.DeepEqual(before.Status, app.Status) {
		return nil
	}
	if r.tuned {
		return r.client.Status().Patch(ctx, app, client.MergeFrom(before))
	}
	return r.client.Status().Update(ctx, app)
}

func setCondition(app *WebApp, name string, holds bool, reason, message string) {
	condition := metav1.Condition{
		Type: name, Status: metav1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: app.Generation,
	}
	if holds {
		condition.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(&app.Status.Conditions, condition)
}
